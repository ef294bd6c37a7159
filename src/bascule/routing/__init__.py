"""Routing: expressions, specificity, conflicts, the compiled matcher, its plain reference, and explanations."""
