//! End-to-end scenarios over real guests. One module per theme; the fixture is `smolvm_tests`.

mod browser;
mod commands;
mod custom_boot;
mod death;
mod engine_contract;
mod environment;
mod files;
mod jail;
mod jobs;
mod lifecycle;
mod limits;
mod network;
mod ports;
mod refusals;
mod ssh_images;
mod templates;
mod terminal;
mod tuned_kernel;
mod verbs;
