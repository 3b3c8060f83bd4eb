"""What tests of programs that use encore need."""
