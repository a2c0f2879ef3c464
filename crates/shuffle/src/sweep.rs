//! When may objects go?
