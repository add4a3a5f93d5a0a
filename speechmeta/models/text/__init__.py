"""Text models that answer in a wanted form: local ones under the grammar, and servers."""
