//! The two implementations of the query port against one contract, and the projector against a real journal and a
//! real database.

mod audit;
mod contract;
mod fencing;
mod foreign;
mod history;
mod journal;
mod pooled;
mod rebuild;
mod reference;
mod requests;
mod stores;
