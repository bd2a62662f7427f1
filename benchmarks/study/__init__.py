"""The study: does CASSLE keep what other methods forget? Its arms, its runs and its page."""
