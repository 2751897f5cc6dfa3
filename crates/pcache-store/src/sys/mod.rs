//! The one fence: what the operating system knows of memory. The only module with `unsafe` code.
#![allow(unsafe_code)]

pub mod pages;
