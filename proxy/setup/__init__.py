"""`posthog-proxy init`: from what an operator wants to a service under systemd, and back.

`plan` is pure: what is wanted and what was found become files and advice. `facts` finds out what nobody has
to be asked. `files` writes, and removes what it wrote. `command` is the command line.
"""
