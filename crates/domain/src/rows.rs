//! What the query API shows of providers and wakes, derived from their state and events.
