"""Reports: tables, Markdown, HTML, comparison, published figures."""
