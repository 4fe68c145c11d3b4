"""How fast a model is and what it needs: clocks, rounds in turn, memory, the machine's peak, and peers.

rounds.py and memory.py stand alone: scripts measure two ways of doing something with them.
"""
