"""What all HTTP edges use: authentication, CORS, problems, negotiation, uploads, writing of responses."""
