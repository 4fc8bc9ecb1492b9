"""Chores in real applications on a real desktop: an X server, a window manager, five programs, a home of its own.

The player reads the accessibility tree and moves a real mouse and keyboard; a judge reads the files that are left.
"""
