"""Values of every class of personal data, what only looks like them, and the lines that both stand in; the same ones for a seed.

Nothing here is taken from the rules that are tested: checksums are python-stdnum's or written out anew, numbering plans those of
phonenumbers, addresses of machines those of the standard library.
"""
