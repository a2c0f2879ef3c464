//! How is it proven that rows read are the rows written?
