"""The only shared machinery. It knows no domain noun.

A service is composed in its `main`: a `Service` (see `run`) names its settings, migrations, message handlers,
projections, work runners and HTTP routers. A handler gets a message and a `Unit`: it loads, decides, and puts events,
messages, rows and work into the unit; the chassis commits the unit with the inbox entry, all or nothing. What takes
long is work (see `work`).
"""
