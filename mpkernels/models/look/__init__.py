"""What a trained network's routers do, as figures and as a page: see docs/looking.md."""
