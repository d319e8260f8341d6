"""Several devices (`mesh`) and several processes (`processes`) that share the work of one run."""
