"""What travels between processes, as bytes and back; no connection is opened here.

frames.py   frames between nodes              kafka/      the Kafka protocol, both sides
peer.py     how a connection of theirs begins foreign.py  who is at the wrong port
"""
