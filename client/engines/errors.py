"""Why an engine does not serve a model."""

from client.errors import SiteError


class Unsupported(SiteError):
    """This engine cannot serve this model: the layer and the reason. Another engine may."""
