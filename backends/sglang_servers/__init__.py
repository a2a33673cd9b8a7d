"""SGLang servers, found or launched."""
