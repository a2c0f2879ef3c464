//! Which outputs share an object, and when is it sealed?
