//! What a message for a chat is, and what an answer means: tables.
