"""The commands that have no room of their own: ``s2s decode``, ``evaluate``, ``predict``, ``export`` and ``average``.

Training, diagnosis and the server have theirs in ``s2s.train``, ``s2s.diagnose`` and ``s2s.serve``.
"""
