WRONG = "a row resumed in line 11 begins its frames anew"
HINT = "where its data stopped"
REPLACE = [('used = loop.done["game"] + loop.done["finetune"]', 'used = loop.done["game"]')]
