"""Speed and memory of models: rounds in turn, peak memory, the machine, and other libraries' models beside ours.

rounds.py and memory.py also serve scripts that compare two ways of computing one result.
"""
