//! CoracleConfiguration: strict parsing with file and line
