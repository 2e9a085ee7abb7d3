"""What is spoken over HTTP beside the chat.

The listener, and what calls share (calls); the API for services (api), dead letters, one tenant's
figures (ops), and health, readiness and metrics (admin); the pages that browsers load (webpages).
Campaigns have their calls in their own package.
"""
