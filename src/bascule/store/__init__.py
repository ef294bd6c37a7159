"""Where configuration comes from. Every store yields the same `bascule.model.tree.Tree`."""
