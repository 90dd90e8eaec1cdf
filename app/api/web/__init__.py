"""The playground at `/`: a page on which people try the API."""
