"""Changes to SGLang that none of its seams reach, one small module each.

A module holds a :class:`~autellix_sgl.patches.record.Patch` named ``PATCH``: what it changes, why,
when it can go, the upstream definitions it relies on, and how to apply and to verify it. Nothing is
applied by importing. ``docs/upstream.md`` says which rungs of the ladder were tried before a patch.
"""
