"""The five panels and what they share; in a folder of their own, because Slicer takes loose files for modules."""
