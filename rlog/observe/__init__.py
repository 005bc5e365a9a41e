"""What a node counts and says. It is told, and asks nothing of who tells it.

counters.py    plain numbers, cheap enough for every turn
metrics.py     what each of them means, declared once
exposition.py  as Prometheus reads them
events.py      log lines: an event and its fields
admin.py       the HTTP port that shows all this
watch.py       what is looked at from time to time
"""
