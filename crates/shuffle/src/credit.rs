//! Who may hold how many encoded bytes?
