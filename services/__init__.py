"""Services: missions and control services, imported as ``bem_fleet.services``."""
