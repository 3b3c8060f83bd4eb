"""Application-wide events: classes of events, listeners, and the managers between them."""
