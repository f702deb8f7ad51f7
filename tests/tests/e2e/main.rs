//! End-to-end tests: real processes, real NATS, real PostgreSQL; only the model server is a stand-in.
//!
//! One binary, so that it is linked once.

mod archive;
mod attacks;
mod bad_input_transcripts;
mod benchmarks;
mod browser;
mod canaries;
mod carried;
mod cluster;
mod compose;
mod docs;
mod enrollment;
mod faults;
mod first_use;
mod forgeries;
mod full_disk;
mod harness;
mod https;
mod init;
mod keys;
mod left_alone;
mod locked;
mod loops;
mod lost_journal;
mod machine;
mod nats_time;
mod openai_sdk;
mod operator;
mod outages;
mod owner;
mod pools;
mod recipes;
mod relay;
mod reload;
mod remembered_models;
mod rows;
mod scene;
mod sleeping;
mod stand_in;
mod systemd;
mod transcript;
mod two_machines;
mod versions;
mod wake;
mod ways_to_the_hub;
