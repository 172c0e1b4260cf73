"""A run as one HTML page that needs nothing but itself: for reading, passing on and printing."""

from autopv.report.page.writing import write_page

__all__ = ["write_page"]
