"""Messages of rpl.v1 to Python values and back; the only wing that imports protobuf, besides recording/mcap."""
