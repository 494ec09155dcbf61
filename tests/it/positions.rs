//! Positions in the binlog (issue 4 item 6): what happens when the server, its log or the way to it is not what it was.
