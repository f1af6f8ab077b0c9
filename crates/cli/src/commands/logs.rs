//! `logs`: what a sandbox's console said.
