"""What is seen of the server over HTTP: middleware, tenants, the programs' routes."""
