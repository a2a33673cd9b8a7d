"""How stage 3 decodes an attempt, and which two attempts make a preference pair."""
