//! Does a shuffle keep its promises over a whole store?
