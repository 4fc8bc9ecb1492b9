"""WebShop: shopping by search and click, its pages, its reward, and its shop as a real web site."""
