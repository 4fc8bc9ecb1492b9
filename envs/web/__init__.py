"""Web pages in a real browser: `browser` runs it, `page` looks and acts, `env` plays MiniWoB++ on it."""
