//! Browser sessions in real guests. A guest boots once, and Chromium, which an emulated guest
//! starts in ten seconds, starts once for all steps of a test.

mod guest;
mod launcher;
