"""Everything that is drawn: curves and sheets of a run, answers on images, the paper's figures."""
