"""What may be asked of a trained run beyond its report: each a command of its own, a module each.

Like `pipeline`, these join stages, which know nothing of each other.
"""
