"""SGLang that schedules agent programs instead of requests.

Importing this package imports neither torch nor sglang.
"""

__version__ = "0.1.0"
