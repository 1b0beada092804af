"""Sites, storms, engines and mutants of topics."""
