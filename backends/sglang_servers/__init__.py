"""Models on SGLang servers, which run already or are launched for the run."""
