"""``python -m autellix_sgl.doctor [--url URL]``: is program scheduling in effect?

Without ``--url`` it examines this installation: versions, every patch, the default model. With it,
it asks a running server, replica by replica and process by process, what schedules there.

    exit status   0 all is well    1 something is wrong, and is named    2 no answer to judge

It imports neither torch nor sglang, so it answers in well under a second, also where one of them
is broken.
"""
