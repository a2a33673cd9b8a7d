"""The stages in order, updates of the student with their gate, and what a resumed run finds again."""
