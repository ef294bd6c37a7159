"""The shared test kit: real processes, scripted origins, raw clients and load.

Nothing here imports the program under test: it is started as a process and spoken to over sockets, so the same tests
run against another proxy (`pytest --proxy nginx`), which is how a wrong expectation is told from a wrong answer.
"""
