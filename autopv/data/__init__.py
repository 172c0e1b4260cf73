"""Images of one domain: loading, splitting, converting, and showing them."""
